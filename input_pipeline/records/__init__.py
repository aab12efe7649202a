"""Records: what every data set becomes, how it is prepared, and how it is opened again."""
