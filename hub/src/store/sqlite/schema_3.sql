-- When a run started, by the hub's clock; NULL: not known.
ALTER TABLE results ADD COLUMN corrected INTEGER;
