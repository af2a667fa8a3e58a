"""Training of the models that facesearch can train itself; see docs/landmarks.md."""
