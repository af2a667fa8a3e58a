"""Stored crops of faces, for those who ask for them"""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

BIG_ID = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    op.create_table(
        "crops",
        sa.Column("face_id", BIG_ID, nullable=False, autoincrement=False),
        sa.Column("png", sa.LargeBinary(), nullable=False),
        sa.ForeignKeyConstraint(
            ["face_id"], ["faces.id"], name="fk_crops_face_id", ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("face_id", name="pk_crops"),
    )


def downgrade() -> None:
    op.drop_table("crops")
