"""Photos in: the worker that turns files into stored faces, and enrolment on top of it."""
