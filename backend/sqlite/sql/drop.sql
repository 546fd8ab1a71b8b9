-- All that a namespace has in the file; indexes go with their tables.
DROP TABLE IF EXISTS stem_meta;
DROP TABLE IF EXISTS stem_queue;
DROP TABLE IF EXISTS stem_worker;
DROP TABLE IF EXISTS stem_task;
DROP TABLE IF EXISTS stem_note;
DROP TABLE IF EXISTS stem_claim;
DROP TABLE IF EXISTS stem_revoke;
DROP TABLE IF EXISTS stem_record;
DROP TABLE IF EXISTS stem_heartbeat;
DROP TABLE IF EXISTS stem_limit;
DROP TABLE IF EXISTS stem_pause;
DROP TABLE IF EXISTS stem_command;
DROP TABLE IF EXISTS stem_reply;
DROP TABLE IF EXISTS stem_lock;
DROP TABLE IF EXISTS stem_schedule;
DROP TABLE IF EXISTS stem_firing;
DROP TABLE IF EXISTS stem_pending;
