"""Result folders, figures and pages."""
