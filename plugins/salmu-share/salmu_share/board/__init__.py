"""A place where results meet: submissions that anybody can make, and a board that checks them and shows those that hold."""
