"""The dashboard in a real Chromium, on one running stack."""
