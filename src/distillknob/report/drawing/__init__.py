"""HTML, SVG and the plots that the report is drawn with."""
