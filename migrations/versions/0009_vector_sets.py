"""Vectors of the same faces by several models: going over to another model, and back"""

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0005"
branch_labels = None
depends_on = None

BIG_ID = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    op.add_column(
        "collections", sa.Column("vectors", sa.BigInteger(), nullable=False, server_default="0")
    )
    op.create_table(
        "vector_sets",
        sa.Column("id", BIG_ID, nullable=False),
        sa.Column("collection_id", BIG_ID, nullable=False),
        sa.Column("number", sa.BigInteger(), nullable=False),
        sa.Column("model_name", sa.String(200), nullable=False),
        sa.Column("model_sha256", sa.String(64), nullable=False),
        sa.Column("model_preprocessing", sa.Text(), nullable=False),
        sa.Column("model_dim", sa.Integer(), nullable=False),
        sa.Column("report", sa.JSON(), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("activated_at", sa.DateTime(timezone=True), nullable=True),
        sa.ForeignKeyConstraint(
            ["collection_id"],
            ["collections.id"],
            name="fk_vector_sets_collection_id",
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("id", name="pk_vector_sets"),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_vector_sets_collection_id", "vector_sets", ["collection_id"])
    op.create_table(
        "vectors",
        sa.Column("face_id", BIG_ID, nullable=False),
        sa.Column("set_id", BIG_ID, nullable=False),
        sa.Column("embedding", sa.LargeBinary(), nullable=False),
        sa.Column("changed", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(
            ["face_id"], ["faces.id"], name="fk_vectors_face_id", ondelete="CASCADE"
        ),
        sa.ForeignKeyConstraint(
            ["set_id"], ["vector_sets.id"], name="fk_vectors_set_id", ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("face_id", "set_id", name="pk_vectors"),
    )
    op.create_index("ix_vectors_set_id_changed", "vectors", ["set_id", "changed"])
    op.create_table(
        "reembeddings",
        sa.Column("id", BIG_ID, nullable=False),
        sa.Column("set_number", sa.BigInteger(), nullable=False),
        sa.Column("photo_id", BIG_ID, nullable=False),
        sa.Column("lease", sa.BigInteger(), nullable=True),
        sa.Column("reason", sa.String(32), nullable=True),
        sa.Column("detail", sa.Text(), nullable=True),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.ForeignKeyConstraint(
            ["photo_id"], ["photos.id"], name="fk_reembeddings_photo_id", ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("id", name="pk_reembeddings"),
        sa.UniqueConstraint("set_number", "photo_id", name="uq_reembeddings_set_number_photo_id"),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_reembeddings_photo_id", "reembeddings", ["photo_id"])
    op.create_index("ix_reembeddings_lease", "reembeddings", ["lease"])


def downgrade() -> None:
    for table in ("reembeddings", "vectors", "vector_sets"):
        op.drop_table(table)
    op.drop_column("collections", "vectors")
