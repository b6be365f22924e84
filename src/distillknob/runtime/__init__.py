"""What every stage stands on: its processes, progress bars, requests to servers and to the hub, and the date."""
