"""`twodim corpus`: recorded requests image by image on the golden model and on the RTL."""
