"""What is kept: PostgreSQL (the truth), Redis (which only carries) and the services that run them on one machine."""
