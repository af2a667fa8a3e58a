"""From nearest faces to an answer: candidates, threshold, decision."""
