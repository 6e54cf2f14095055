from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [("django_shop", "0001_initial")]
    operations = [
        migrations.RunSQL(
            """SELECT token_balance.attach('django_shop_user', 'django_shop_tokenusage', 'django_shop_workflow',
                   outside_changes => 'keep')""",
            "SELECT token_balance.detach()",
            # The column is attach's to make: Django is told of it and makes none.
            state_operations=[
                migrations.AddField("user", "token_balance", models.IntegerField(default=1000000, editable=False)),
            ],
        ),
    ]
