"""What people read: records, tables, figures, dashboards."""
