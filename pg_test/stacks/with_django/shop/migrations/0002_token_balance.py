from recipe_django_migration import Migration  # noqa: F401
