import django.db.models.deletion
from django.db import migrations, models


class Migration(migrations.Migration):
    initial = True
    operations = [
        migrations.CreateModel("User", [
            ("id", models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID")),
            ("email", models.EmailField(max_length=254)),
        ]),
        migrations.CreateModel("Workflow", [
            ("id", models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID")),
            ("status", models.CharField(default="running", max_length=20)),
            ("user", models.ForeignKey(on_delete=django.db.models.deletion.CASCADE, to="django_shop.user")),
        ]),
        migrations.CreateModel("TokenUsage", [
            ("id", models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID")),
            ("user_id", models.BigIntegerField()),
            ("total_tokens", models.IntegerField(null=True)),
            ("created_at", models.DateTimeField(auto_now_add=True)),
            ("workflow", models.ForeignKey(null=True, on_delete=django.db.models.deletion.CASCADE, to="django_shop.workflow")),
        ]),
    ]
