"""Small pieces that several components share."""
