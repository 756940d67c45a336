"""`twodim walk`: one IOVA through the tables of a file, every level explained."""
