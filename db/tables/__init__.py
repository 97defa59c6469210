"""The tables, a file for each part of the trip; `db.schema` tells how they hang together and gathers them."""
