from django.db import models

from recipe_django_model import User


class Run(models.Model):
    user = models.ForeignKey(User, models.CASCADE)
    status = models.CharField(max_length=20, default="running")


class Usage(models.Model):
    run = models.ForeignKey(Run, models.CASCADE, db_index=False)
    user = models.ForeignKey(User, models.CASCADE)
    total_tokens = models.IntegerField()

    class Meta:
        indexes = [models.Index(fields=["run"], include=["user", "total_tokens"], name="usage_of_run")]
