"""The pages, one file each; what they ask is written where it is shown."""
