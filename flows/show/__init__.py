"""What people see of nights and releases: tables, progress, reports."""
