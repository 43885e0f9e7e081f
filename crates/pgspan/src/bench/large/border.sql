SELECT u.country, COUNT(*) AS orders, SUM(ro.total_amount) AS spent FROM users u JOIN remote_orders ro ON u.user_id = ro.user_id WHERE ro.order_id <= ${orders} GROUP BY u.country ORDER BY u.country
