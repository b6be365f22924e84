"""The gate: may this teacher be released, by a policy and the result of an attack? Nothing here loads a model."""
