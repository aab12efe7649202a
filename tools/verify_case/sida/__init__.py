"""Golden cases of SIDA: a LISA with a class for every photo and a mask for tampered ones."""
