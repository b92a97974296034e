"""The tables of a record (record.py), and what it forgets when it is opened."""

GOOD = ("ok", "truncated")
# Statuses that say that a model answered.
ANSWERED = (*GOOD, "empty")
TABLES = """
CREATE TABLE IF NOT EXISTS processes (
  id INTEGER PRIMARY KEY, started REAL, seconds REAL
);
CREATE TABLE IF NOT EXISTS requests (key TEXT PRIMARY KEY, request TEXT);
CREATE TABLE IF NOT EXISTS attempts (
  id INTEGER PRIMARY KEY,
  process INTEGER NOT NULL,
  key TEXT NOT NULL,
  role TEXT NOT NULL,
  model TEXT NOT NULL,
  bound_tokens INTEGER NOT NULL,
  bound_pico INTEGER NOT NULL,
  calls INTEGER NOT NULL,      -- of the bound, then as sent
  settled INTEGER,             -- order of settling; NULL: under way or killed
  status TEXT,                 -- of Reply.status, or lost
  final INTEGER NOT NULL DEFAULT 0,  -- the outcome of an ask
  text TEXT,
  prompt_tokens INTEGER,
  completion_tokens INTEGER,
  tokens INTEGER,              -- charged; NULL where lost
  pico INTEGER,                -- charged picodollars; NULL: unpriced or lost
  seconds REAL,
  error TEXT
);
CREATE TABLE IF NOT EXISTS shared (  -- failures that several asks waited for
  attempt INTEGER PRIMARY KEY, asks INTEGER NOT NULL
);
CREATE TABLE IF NOT EXISTS committed (key TEXT PRIMARY KEY, value TEXT);
CREATE INDEX IF NOT EXISTS attempts_key ON attempts (key, id);
"""
# Failures after the last answer of their model (empty or not) are forgotten.
FORGET = f"""
UPDATE attempts SET final = 0 WHERE final = 1
AND status NOT IN {ANSWERED}
AND settled > IFNULL((SELECT MAX(settled) FROM attempts AS other
  WHERE other.model = attempts.model AND other.final = 1
    AND other.status IN {ANSWERED}), 0)
AND settled > IFNULL((SELECT MAX(settled) FROM notes), 0)
"""
