"""The screens of templates; only they import Textual."""
