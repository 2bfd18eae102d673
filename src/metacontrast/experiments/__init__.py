"""Every question of the paper as an experiment: what is run, measured, drawn and concluded."""
