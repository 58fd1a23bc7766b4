"""Reports on a curation: an HTML page, a data set card, the explanation of one clip, the comparison of two versions."""
