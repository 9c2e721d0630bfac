"""Reports: tables, plots and pages made from records; they know neither models nor tensors."""
