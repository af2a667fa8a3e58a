"""The index stage: nearest faces of a query, from files that can be rebuilt from the database.

    spec         a recipe: what FAISS builds and how it is searched; which one suits a size
    exact        brute force: the oracle, the delta, and the fallback
    faiss_index  the one file that imports FAISS
    manifest     what is written beside an index; how it is checked
    disk         durable files, the build lock, the translation of operating-system errors
    build        faces -> a generation on disk, published atomically
    generation   a generation on disk -> searchable
    segment      one immutable set of rows: picks exact or FAISS, re-ranks, groups by identity
    state        the segments searched at one moment, joined
    live         generation + delta - removed faces = what the store holds now
    measure      what an index loses and what a query costs
    tune         recipes x parameters -> the fastest that meets a target
    tuned        the choice kept beside the generations

The stage never imports the store: rows and changes come in as `values.FaceRows` and
`values.Changes`.
"""
