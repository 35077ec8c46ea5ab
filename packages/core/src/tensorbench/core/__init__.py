"""What every tensorbench package needs: configs, runs, records, tracking, claims, data, timing, plotting."""
