"""Records, and all that people read of them: tables, figures, pages, dashboards."""
