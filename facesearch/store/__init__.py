"""The truth: photos, faces, identities and the ledger, in SQLite or Postgres through SQLAlchemy."""
