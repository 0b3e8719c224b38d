"""What Alembic runs: the changes on the connection that `database.upgrade` gives."""

from alembic import context

from finetune.feedback.schema import METADATA

context.configure(connection=context.config.attributes["connection"], target_metadata=METADATA)
context.run_migrations()
