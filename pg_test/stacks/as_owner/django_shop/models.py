"""A platform as one is written with Django. The balance is a field of the model's state; attach makes the column."""

from django.db import models


class User(models.Model):
    email = models.EmailField()
    # A save writes it with all other fields: attach(outside_changes => 'keep') lets the extension's value stand.
    token_balance = models.IntegerField(default=1000000, editable=False)


class Workflow(models.Model):
    user = models.ForeignKey(User, models.CASCADE)
    status = models.CharField(max_length=20, default="running")


class TokenUsage(models.Model):
    workflow = models.ForeignKey(Workflow, models.CASCADE, null=True)
    user_id = models.BigIntegerField()
    total_tokens = models.IntegerField(null=True)
    created_at = models.DateTimeField(auto_now_add=True)
