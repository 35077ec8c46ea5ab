"""What matrix units really compute: a simulator exact to the bit, probes, summation orders, error profiles, a speed
model."""
