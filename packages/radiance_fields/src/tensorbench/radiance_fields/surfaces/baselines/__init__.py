"""What else reconstructs a template's deformation from tracked points: meshes, convex relaxation, linear models."""
