"""The command line `tidemill`: one file per command, none of which imports anything heavy early."""
