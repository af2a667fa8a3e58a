"""Rejected faces; what photos look like and when they were taken; quality from 0 to 1"""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

BIG_ID = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    op.add_column("photos", sa.Column("phash", sa.BigInteger(), nullable=True))
    op.add_column("photos", sa.Column("taken_at", sa.DateTime(), nullable=True))
    op.add_column("photos", sa.Column("latitude", sa.Float(), nullable=True))
    op.add_column("photos", sa.Column("longitude", sa.Float(), nullable=True))
    op.create_table(
        "rejections",
        sa.Column("id", BIG_ID, nullable=False),
        sa.Column("collection_id", BIG_ID, nullable=False),
        sa.Column("photo_id", BIG_ID, nullable=False),
        sa.Column("ordinal", sa.Integer(), nullable=False),
        sa.Column("x1", sa.Float(), nullable=False),
        sa.Column("y1", sa.Float(), nullable=False),
        sa.Column("x2", sa.Float(), nullable=False),
        sa.Column("y2", sa.Float(), nullable=False),
        sa.Column("landmarks", sa.LargeBinary(), nullable=False),
        sa.Column("score", sa.Float(), nullable=False),
        sa.Column("quality", sa.Float(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(
            ["collection_id"],
            ["collections.id"],
            name="fk_rejections_collection_id",
            ondelete="CASCADE",
        ),
        sa.ForeignKeyConstraint(
            ["photo_id"], ["photos.id"], name="fk_rejections_photo_id", ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("id", name="pk_rejections"),
        sa.UniqueConstraint("photo_id", "ordinal", name="uq_rejections_photo_id_ordinal"),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_rejections_collection_id", "rejections", ["collection_id"])
    # Until now quality was the length of the embedding. SFace's runs from about 9 (hopeless) to 16;
    # of other models nothing is known, and 0.5 is the middle.
    op.execute(
        "UPDATE faces SET quality = CASE WHEN collection_id IN "
        "(SELECT id FROM collections WHERE model_name = 'sface') THEN "
        "CASE WHEN quality < 9.5 THEN 0.0 WHEN quality > 15.5 THEN 1.0 "
        "ELSE (quality - 9.5) / 6.0 END ELSE 0.5 END"
    )


def downgrade() -> None:
    op.execute("UPDATE faces SET quality = 9.5 + 6.0 * quality")
    op.drop_index("ix_rejections_collection_id", "rejections")
    op.drop_table("rejections")
    for column in ("longitude", "latitude", "taken_at", "phash"):
        op.drop_column("photos", column)
