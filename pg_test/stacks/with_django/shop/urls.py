from django.urls import path

from recipe_django_view import complete

urlpatterns = [path("runs/<int:run_id>/complete", complete)]
