"""A student by leaving out layers of a model, or neurons of its MLPs, by place or by how much they matter."""
