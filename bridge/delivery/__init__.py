"""What is sent to addresses of others: results and outputs."""
