"""Files that were in hand when a worker died"""

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column(
        "files", sa.Column("deaths", sa.Integer(), nullable=False, server_default="0")
    )


def downgrade() -> None:
    op.drop_column("files", "deaths")
