"""This room makes the HTML, the SVG and the plots that the report is drawn with."""
