"""The Barron construction as a computation: flows in function space, norms counted, and the networks they give."""
