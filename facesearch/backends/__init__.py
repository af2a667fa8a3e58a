"""Vector servers instead of FAISS: the same answers, beyond one machine.

    backend   what a vector server must do: the protocol, and what it says of its contents
    remote    an index whose vectors are in a server: candidates from there, decided here
    ranking   the exact answer among faces that are at hand
    sync      the store's faces to a server: build, push what changed, verify, repair
    pgvector  the store's own Postgres
    milvus    a Milvus server or Milvus Lite, asked by `milvus_client` over `milvus_link`
    trials    a server as the tuner asks it

A server is a cache of the store, as a generation on disk is: it holds all faces at one revision.
Whatever changed since is searched beside it, exactly, and every candidate is read from the store
again before it is scored, so that an answer never depends on what a server holds too much, only on
what it misses.
"""
