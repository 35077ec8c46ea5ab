"""Camera poses and a low-rank field learnt together: kernels, schedules, targets, the planar task, the joint trainer."""
