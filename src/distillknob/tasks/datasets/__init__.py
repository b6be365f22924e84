"""Tasks on public data sets, one file each: what is read, how it is split, and how an answer is graded."""
