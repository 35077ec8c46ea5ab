"""Camera poses and a low-rank field learnt together: kernels, schedules, targets, planar task, joint trainer."""
