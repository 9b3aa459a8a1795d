"""What claims cost when there is very much: counted in pages, so that it is exact."""
