"""Fields of light and shape in tensor form, on one volume renderer and one trainer."""
