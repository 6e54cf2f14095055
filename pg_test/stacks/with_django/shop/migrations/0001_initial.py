"""The tables, as they are before the extension comes."""
from django.db import migrations, models


def key():
    return models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID")


class Migration(migrations.Migration):
    initial = True
    operations = [
        migrations.CreateModel("User", [("id", key()), ("email", models.EmailField())]),
        migrations.CreateModel(
            "Run",
            [
                ("id", key()),
                ("user", models.ForeignKey("shop.user", models.CASCADE)),
                ("status", models.CharField(max_length=20, default="running")),
            ],
        ),
        migrations.CreateModel(
            "Usage",
            [
                ("id", key()),
                ("run", models.ForeignKey("shop.run", models.CASCADE, db_index=False)),
                ("user", models.ForeignKey("shop.user", models.CASCADE)),
                ("total_tokens", models.IntegerField()),
            ],
            options={"indexes": [models.Index(fields=["run"], include=["user", "total_tokens"], name="usage_of_run")]},
        ),
    ]
